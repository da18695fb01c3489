/* Sums arrays of the given bytes as the trainer does in a fixed order ("fixed") or as MPI does
   ("mpi"), without additions of the former, and prints the seconds of the slowest rank for each. */

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_PIECE = 256, LONG_PIECE = 32 << 10, MANY = 8, AT_ONCE = 32 };

/* SimGrid's own all-to-all of middling pieces has 4 messages under way, MPICH's has 32: its
   MPIR_CVAR_ALLTOALL_THROTTLE. Numbers do not matter: all go to and come from the same memory. */
static void all_to_all(float *from, float *to, long piece, int rank, int size) {
    long bytes = piece * (long)sizeof(float);
    if ((bytes <= SHORT_PIECE && size >= MANY) || bytes > LONG_PIECE) {
        MPI_Alltoall(from, piece, MPI_FLOAT, to, piece, MPI_FLOAT, MPI_COMM_WORLD);
        return;
    }
    MPI_Request requests[2 * AT_ONCE];
    for (int first = 1; first < size; first += AT_ONCE) {
        int count = 0;
        for (int k = first; k < size && k < first + AT_ONCE; k++) {
            int source = (rank + k) % size, target = (rank - k + size) % size;
            MPI_Irecv(to + source * piece, piece, MPI_FLOAT, source, 0, MPI_COMM_WORLD,
                      &requests[count++]);
            MPI_Isend(from + target * piece, piece, MPI_FLOAT, target, 0, MPI_COMM_WORLD,
                      &requests[count++]);
        }
        MPI_Waitall(count, requests, MPI_STATUSES_IGNORE);
    }
}

int main(int argc, char **argv) {
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int fixed = !strcmp(argv[1], "fixed");
    for (int i = 2; i < argc; i++) {
        long count = atol(argv[i]) / sizeof(float), piece = (count + size - 1) / size;
        /* One memory for all ranks: numbers do not matter. */
        float *from = SMPI_SHARED_MALLOC(piece * size * sizeof(float));
        float *to = SMPI_SHARED_MALLOC(piece * size * sizeof(float));
        MPI_Barrier(MPI_COMM_WORLD);
        double begun = MPI_Wtime(), taken, slowest;
        if (fixed) {
            all_to_all(from, to, piece, rank, size);
            MPI_Allgather(to, piece, MPI_FLOAT, from, piece, MPI_FLOAT, MPI_COMM_WORLD);
        } else {
            MPI_Allreduce(from, to, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        }
        taken = MPI_Wtime() - begun;
        MPI_Reduce(&taken, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
        if (rank == 0)
            printf("%.9f\n", slowest);
        SMPI_SHARED_FREE(from);
        SMPI_SHARED_FREE(to);
    }
    MPI_Finalize();
    return 0;
}
