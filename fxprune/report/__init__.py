"""Reports on the groups of a model: tables, JSON, a picture and a web page.

data.py      what is known of each group, as rows and as JSON-able values
table.py     the same as rich tables for a terminal
flow.py      who feeds whom: groups, what is fixed around them, and the joints of concatenations
rows.py      a layered layout of any acyclic graph (rows, order, coordinates)
picture.py   flow + layout as SVG
ink.py       the elements of an SVG; legend.py: what its colours and lines mean
page.py      the SVG and the tables as one HTML file that needs nothing else; page_parts.py: its pieces
"""

from fxprune.report.data import as_dict, fixed_rows, group_rows
from fxprune.report.drawing.page import page
from fxprune.report.drawing.picture import picture
from fxprune.report.table import fixed_table, group_table, members_table

__all__ = ["as_dict", "fixed_rows", "fixed_table", "group_rows", "group_table", "members_table", "page", "picture"]
