"""A report as files: Markdown, HTML with pictures, JSON and DICOM SR."""
