"""Weight-permutation importance in closed form."""
class WeightPermutation: pass
