"""The zeros in the sampled steps of a run, for its bill."""

from __future__ import annotations

from ....autograd.ledger import Ledger, SparsitySample
from ..phases import NAMES
from .model.bill import SampledLayer, SampleReport, SparsityReport

NOT_COUNTED = "evaluation, and what has no MACs"


def sparsity_report(ledger: Ledger, steps: int) -> SparsityReport:
    """Return non-zero MACs and shares of zeros by pass and by layer, over the sampled steps only.
    `steps` are all steps of the run."""
    phases = ledger.sample_sums(lambda key: key.phase)
    layers, total = dict[str, dict[str, SparsitySample]](), SparsitySample()
    for (scope, phase), sample in ledger.sample_sums(lambda key: key.scope_and_phase).items():
        layers.setdefault(scope, {})[phase] = sample
        total = total.plus(sample)
    return SparsityReport(
        ledger.sampled_steps,
        steps,
        {name: SampleReport(phases[name]) for name in NAMES if name in phases},
        SampleReport(total),
        [
            SampledLayer(scope, {name: SampleReport(one) for name, one in by_phase.items()})
            for scope, by_phase in layers.items()
        ],
        NOT_COUNTED,
    )
