"""Storage: files that are written whole or not at all, and tables for notebooks.

files       files that are whole or not there, whatever kills the process meanwhile
json_lines  a file that grows by a line for each thing that is done
html        tables for notebooks
"""
