"""What can be said of class names before training: without a label, and after about ten answers. Arrays in, numbers and sentences out; nothing here reads or writes.

figures  do the names separate the documents, which are near each other or near nothing; typical documents
words    the words that are typical of the documents nearest to each name
answers  about which documents to ask, and what the answers say of each name
report   all of it in words
"""
