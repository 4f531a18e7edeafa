"""The former place of `RemoteTexts`."""

from selftrain.texts.channel import RemoteTexts

__all__ = ["RemoteTexts"]
