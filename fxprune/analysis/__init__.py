"""Analysis: from a recorded graph to the groups of channels that must live or die together.

labels        what each dim of each tensor carries, and what each op couples
ops           what there is to know of each op, in one table
grouping      from labels to groups: components, balanced splits, and why dims must stay
widths        widths that the model's own Python code holds, known by where its numbers come from
groups        `find_groups`, and its result: groups, fixed dims, plans by hand
alternatives  another choice of what shrinks, where the model's code holds the first one
ignored       which groups the caller wants kept
kept          kept channels as a caller gives them
continued     the groups of a model that was cut already
fit           whether groups are of a model
why           what holds a part of a model, where, and what would free it
"""
