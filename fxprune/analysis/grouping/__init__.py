"""From labels to groups: components, balanced splits, and why dims must stay.

components        components of equal labels become groups, in execution order
partition         which components touch the same places, and are one group's channels therefore
balance           equal splits and shuffles, whose parts keep equally many channels, but not the same ones
recordings        the model with smaller widths for such groups, several sets of them in one recording
traces            where in grids and splits the indices of one channel lie
zero_propagation  which ops tell a masked channel from a removed one
partial_reads     the parts of parameters that the recorded forward leaves out
steps             how groups that are tied to one another can shrink together
reasons           the op or boundary that fixes each dim that must stay
"""
