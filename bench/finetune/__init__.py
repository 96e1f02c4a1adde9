"""Recipes that train: a small loop, and what is trained by it.

loop      epochs, checkpoints, early stop; the same for every recipe
data      the pictures of a subset as a training set
save      the written model: weights and card
classifier, scenes      plain classifiers, and the bundled models
"""
