"""Results for people: two pictures of the object, and one page that says how good they are and how they came about."""

from ptycho_torch.report.display import Display, for_display
from ptycho_torch.report.one_line import one_line
from ptycho_torch.report.page import write_report
from ptycho_torch.report.pictures import write_pictures
from ptycho_torch.report.refinement import write_refinement, write_removed

__all__ = ["Display", "for_display", "one_line", "write_pictures", "write_refinement", "write_removed", "write_report"]
