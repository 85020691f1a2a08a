"""The only place that reaches into fairseq, hydra and their modules: one seam a file.

``startup`` is loaded by the start-up hook in every interpreter, before this package's parent, and
applies the other files when the module that needs them is imported. Nothing else belongs here.
"""
