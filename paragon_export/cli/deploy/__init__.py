"""Commands that write what other programs need to run an exported model, one in each module.

They may import what the command line may.
"""
