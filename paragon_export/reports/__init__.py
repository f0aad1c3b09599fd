"""Reports: typed results in, files for people and servers out: HTML pages, Markdown and JUnit XML.

A result becomes a ``Document``, and a document becomes a page or a table. Modules here may import
every package but the command line.
"""
