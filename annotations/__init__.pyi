from .dataset import AnnotatedMaps as AnnotatedMaps
