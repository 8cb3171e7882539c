"""Published checkpoints in and out: folder -> config and named tensors -> our parameters, and back.

folder.py     what lies in a checkpoint folder, tensors read one slice at a time
rules.py      the vocabulary of a mapping table: which of their tensors is which of ours
convert.py    the one engine that applies a table in both directions
families/     one file per published family: its table, and its config in our terms
pretrained.py load_pretrained and export
check.py      a converted checkpoint against outputs recorded elsewhere
"""
