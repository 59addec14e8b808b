"""The embedded model's next version, in the making: one that repaints photographs, too.

Its autoencoder is trained (`core.tiny.AUTOENCODER`); its painter's recipe is here and runs, but no weights that are as
good as the present ones on the world have come out of it yet. Nothing outside this folder uses it but its command.
"""
