"""Figures of a result, and one page with its verdict, its images and its origin."""

from ptycho_torch.report.display import Display, for_display
from ptycho_torch.report.images import write_images
from ptycho_torch.report.one_line import one_line
from ptycho_torch.report.page import write_report
from ptycho_torch.report.refinement import write_steps

__all__ = ["Display", "for_display", "one_line", "write_images", "write_report", "write_steps"]
