"""Smaller and faster classifiers from a bundle: ONNX graphs, int8, distilled students."""
