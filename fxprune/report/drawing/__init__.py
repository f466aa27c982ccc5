"""Drawing: the graph of groups as SVG, alone or in a web page."""
