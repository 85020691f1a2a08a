"""The only place that reaches into fairseq, hydra and their modules: one repair a file.

``startup`` is loaded by the start-up hook in every interpreter, before this package's parent, and calls
a function of the other files when a module that it mends is imported. What the plugin does in fairseq's
place for its own models they ask of the registered ``host``; nothing here imports what lies above.
"""
