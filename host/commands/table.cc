// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/table.hh"

#include "host/commands/format.hh"

#include <algorithm>
#include <stdexcept>

namespace stillpoint {

void Table::add(const std::vector<std::string>& cells) {
  if (cells.size() != columns_.size()) throw std::logic_error("a table's row has another number of cells");
  std::vector<std::string>& row = rows_.emplace_back();
  for (const std::string& cell : cells)
    row.push_back(printable(cell));
}

std::string Table::text(std::size_t indent) const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t width = display_width(columns_[i].title);
    for (const auto& row : rows_)
      width = std::max(width, display_width(row[i]));
    widths.push_back(width);
  }
  std::string out;
  const auto line = [&](const auto& cell_of) {
    std::string text(indent, ' ');
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) text += "  ";
      const std::string& cell = cell_of(i);
      const std::string padding(widths[i] - display_width(cell), ' ');
      text += columns_[i].align == Align::left ? cell + padding : padding + cell;
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + '\n';
  };
  line([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_)
    line([&](std::size_t i) -> const std::string& { return row[i]; });
  return out;
}

}  // namespace stillpoint
