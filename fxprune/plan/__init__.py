"""Plan: which channels stay, as a value, and its file.

slots        where channels lie in tensors, what stays of a tensor, and the fields of a plan
composition  two plans in a row as one
file         a plan as JSON data, and back from data that nobody has checked
plan         the plan
"""
