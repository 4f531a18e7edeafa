"""Whether the texts that a classifier sees now are like those that it was made for. Arrays in, numbers, sentences and pictures out; nothing here reads or writes.

scores   what is looked at of a text: probabilities of the classes, confidence, distance to known texts, place among them
bets     evidence that these have changed, which may be looked at as often as one likes
shares   how many texts of each class there are, corrected for what the classifier mixes up
topics   texts that are far from all known ones, in groups
look     all of it for one look, as figures
plots, page   the same to be seen
"""
