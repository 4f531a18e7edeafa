"""The result of training: a folder that opens with sentence_transformers, mlflow.pyfunc and Classifier.load, and holds no pickle."""
