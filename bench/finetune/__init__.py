"""Recipes that train: a small loop, and what is trained by it.

loop      epochs, checkpoints, early stop; the same for every recipe
data      the pictures of a subset as a training set
save      the written model: weights and card
training  one training of any recipe: images, settings, files
masked_training, patch_masks   sister networks, trained on masked images
classifier, bundled     plain classifiers, and the bundled models
attention_maps          edited maps of attention branch networks, on disk
placement, simulate     whose attention misses the object; maps made from its mask or box
abn_training, sa_training   attention branch networks; trained affinities
guided_attention, attention_agreement   attention taught by edited maps; how well maps agree
"""
