"""Labelling by hand: what a folder asks, who is asked, and the answers. The page on top of it is in serving/.

folder      what a folder asks about, and its answers as a file; an audit's folder, or one of `training`
desk        hands questions out to any number of browsers, and keeps their answers
training    makes a folder whose answers are to be learned from
selection   which documents are worth a label
stopping    whether further answers will help
successor   the run that learns from the answers
retraining  that run in a process of its own, and how it stands; retrainer is the process
comparing   the successor against the bundle before, on an audit's answers
"""
