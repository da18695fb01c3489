"""The methods of a tensor, by families; most are functions of the package too."""
