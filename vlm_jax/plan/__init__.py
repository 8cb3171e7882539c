"""Will it fit, how does it shard, how fast can it be: a config compiled for chips that are not
there. `python launch.py --mode=plan --config=... --topology=v5e:8x8`.
"""
