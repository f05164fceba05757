"""Generated scenes with their truth: coloured shapes with digits on textured grounds, questions, masks; seeded."""

from probe.zoo.scenes.questions import Question, describe, questions
from probe.zoo.scenes.scene import HELD_OUT, Scene, Thing, make_scene
from probe.zoo.scenes.shapes import COLOURS, SHAPES

__all__ = [
    "COLOURS",
    "HELD_OUT",
    "SHAPES",
    "Question",
    "Scene",
    "Thing",
    "describe",
    "make_scene",
    "questions",
]
