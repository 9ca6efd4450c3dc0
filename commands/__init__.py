"""One file a command of ``run.py``: its options, then ``main(words)``. Only here are the other rooms put together."""
