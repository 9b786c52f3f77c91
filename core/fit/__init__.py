"""Fit: the network and the training that suit the data, the machine and the time there is.

machine.py   the cores, memory and accelerators that this process may use
cost.py      what a training step of a recipe costs, measured in a few seconds
choose.py    which size of a family of networks to take, and how to train it
plan.py      the stages of a run with their arguments and their time; printed, stored and repeated exactly
"""
