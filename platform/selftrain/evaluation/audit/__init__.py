"""An audit: how good a classifier is on documents without labels, from a few answers by hand. Arrays in, numbers out; nothing here reads or writes.

design      which documents to ask about, in which order, and how likely each was to be asked
estimate    intervals of shares and ratios from answers that were drawn so
figures     accuracy, and precision, recall and share of every class; what a narrower interval costs
confidence  what the design takes for the chance that a prediction is right
"""
