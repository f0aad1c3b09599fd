"""What commands print: JSON documents, tables, notes and progress, one module a command.

A document is made from the typed result, and so is a table; neither is made from the other. Rich is
imported here alone, and this package only inside commands.
"""
