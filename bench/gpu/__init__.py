"""Everything a GPU run needs: checks, engine steps, kernels, ablations, within a budget."""
