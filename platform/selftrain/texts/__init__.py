"""Texts by a language model, or by several.

    channel    opens the service of one language model (`open_texts`)
    actor      the service as a Ray actor, and how driver and workers ask it
    service    looks texts up in the cache, has the missing ones generated, filters and counts
    teachers   several of these, one a language model, behind one channel
    prompts    what is asked: templates and sampling          filter    which completions are used
    cache/     every completion, on disk                      progress  the bar
    engines/   what generates: one file an engine             dataset/  whole labeled data sets for class names

What a method sees of all this is `selftrain.data.texts`.
"""
