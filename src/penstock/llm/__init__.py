"""The library's door: a model in this process."""

from penstock.llm.completion import Completion, Sample, TextStream
from penstock.llm.model import LLM

__all__ = ["LLM", "Completion", "Sample", "TextStream"]
