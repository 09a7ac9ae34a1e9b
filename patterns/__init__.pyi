from .classifier import PatternClassifier as PatternClassifier
from .classifier import load_classifier as load_classifier
from .heads import classify_heads as classify_heads
from .maps import attention_maps as attention_maps
from .rendering import render_map as render_map
from .result import HeadPatterns as HeadPatterns
from .taxonomy import INTERPRETABLE as INTERPRETABLE
from .taxonomy import Pattern as Pattern
