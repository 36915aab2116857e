"""The generators: each module is a plug-in found through the entry-point group ``recourse_gen.backbones``."""
