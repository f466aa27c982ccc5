"""Reports on the groups of a model: tables, JSON, a picture and a web page.

data.py      what is known of each group, as rows and as JSON-able values
table.py     the same as rich tables for a terminal
plots.py     scores, error curves, searches and trade-offs with matplotlib
drawing/     the same as SVG and as a web page
"""

from fxprune.report.data import as_dict, fixed_rows, group_rows
from fxprune.report.drawing.page import page
from fxprune.report.drawing.picture import picture
from fxprune.report.plots import plot_curves, plot_history, plot_scores, plot_tradeoff, plot_widths
from fxprune.report.table import fixed_table, group_table, members_table

__all__ = [
    "as_dict",
    "fixed_rows",
    "fixed_table",
    "group_rows",
    "group_table",
    "members_table",
    "page",
    "picture",
    "plot_curves",
    "plot_history",
    "plot_scores",
    "plot_tradeoff",
    "plot_widths",
]
