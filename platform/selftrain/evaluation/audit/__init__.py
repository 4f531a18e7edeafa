"""An audit: how good a classifier is on documents without labels, from a few answers by hand. Arrays in, numbers out; nothing here reads or writes.

design      which documents to ask about, in which order, and how likely each was to be asked
estimate    intervals of shares and ratios from answers that were drawn so
figures     accuracy, and precision, recall and share of every class; what a narrower interval costs
several     the same where a document may have several classes
paired      how much more accurate one classifier is than another
risk        from which score on at most a given share of the answers is wrong
sets        which sets of classes hold the true one for at least a given share of the documents
confidence  what the design takes for the chance that a prediction is right
"""
