"""Drawing: the graph of groups as SVG, alone or in a web page.

flow        who feeds whom: groups, what is fixed around them, and the joints of concatenations
layout      a layered layout of any acyclic graph (rows, order, coordinates)
picture     flow + layout as SVG
svg         the elements of an SVG
legend      what the colours and lines of a picture mean
page        the SVG and the tables as one HTML file that needs nothing else
page_parts  the pieces of a page
"""
