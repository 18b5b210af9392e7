"""Export formats, one file each: how it is written, loaded, verified and described.

Each is a subclass of `pipeline.export.export_format.ExportFormat`, declared by `@EXPORT_FORMATS.built_in("name",
summary="...")`; `onnx_file.py` is a short one.
"""
