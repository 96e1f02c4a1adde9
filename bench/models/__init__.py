"""Models: the explainee (network, preprocessing, split) and the zoo."""

from bench.models.explainee import Explainee
from bench.models.zoo import MODELS, load_model, register_model

__all__ = ["MODELS", "Explainee", "load_model", "register_model"]
