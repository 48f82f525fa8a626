"""Texts typical of what people type: their mean stands for the mean of the text view where no text is known."""

from __future__ import annotations

_THINGS = (
    *("a person", "a woman", "a man", "a child", "a group of people", "a face", "a dog", "a cat", "a bird", "a horse"),
    *("an animal", "a flower", "a tree", "a plant", "a fruit", "vegetables", "a meal on a plate", "a cake", "a drink"),
    *("a bottle", "a package", "a box", "a cup", "a car", "a bicycle", "a train", "an aeroplane", "a boat", "a house"),
    *("a tall building", "a bridge", "a street at night", "a room", "a kitchen", "a chair", "a table", "a lamp"),
    *("a bed", "a bag", "a watch", "jewellery", "glasses", "a book", "a poster", "a logo", "a map", "a diagram"),
    *("a screen", "a phone", "a computer", "a tool", "a toy", "a ball", "a musical instrument", "a painting"),
)
_CLOTHES = (
    *("a red dress", "a blue shirt", "black trousers", "a white t-shirt", "a striped sweater", "a leather jacket"),
    *("a winter coat", "running shoes", "sandals", "a hat", "a scarf", "a swimsuit", "socks", "underwear"),
)
_SCENES = (
    *("a beach", "mountains", "a forest", "a lake", "a field under a blue sky", "a city skyline", "a crowd"),
    *("a football match", "a concert", "a wedding", "a sunset", "snow", "a close-up photo", "a black and white photo"),
    *("an old photograph", "a drawing", "a pattern", "something green", "something made of wood", "a plain background"),
)

GENERIC = tuple(f"a photo of {thing}" for thing in _THINGS) + _CLOTHES + _SCENES
"""Things, clothes and scenes, for encoders of photographs."""
