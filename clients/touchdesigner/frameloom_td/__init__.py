"""The code behind the TouchDesigner component: Python 3.11, standard library and numpy.

Only `component` knows TouchDesigner; the others are plain modules on the ring (`bridge.ring`) and the list of live
parameters (`core.params`). Loaded by `../load.py`.
"""
