"""Layout of a recorded graph on a page: branches side by side, long networks in several columns."""
import dataclasses

from pipeline.models.recording import Graph

NODE_WIDTH, NODE_HEIGHT = 1.34, 0.30  # All lengths in inches.
LANE, GAP, ELBOW = 1.62, 0.16, 0.08
HEADER, PADDING, COLUMN_GAP = 0.17, 0.06, 0.34
PARTING = 0.13  # Space under the title of a frame in which branches begin.
PAGE_RATIO = 1.35  # Target ratio of width to height, about that of a landscape page.


@dataclasses.dataclass
class Layout:
    """Coordinates in inches, y downwards from the top of the image.

    Attributes:
      nodes: [(x of the middle, y of the upper edge)] of every node.
      boxes: {path of a block: (left, top, right, bottom)}, outer before inner ones.
      lines: [[(x, y), ...]], one for each edge, from the lower edge of one node to the upper edge of the other.
      width, height: of the image.
      prefix: number of names removed from the front of every path in `boxes`: those of a block around everything.
    """

    nodes: list[tuple[float, float]]
    boxes: dict[tuple[str, ...], tuple[float, float, float, float]]
    lines: list[list[tuple[float, float]]]
    width: float
    height: float
    prefix: int


def place(graph: Graph) -> Layout:
    """Returns the layout of a graph."""
    order = _Order(graph)
    x = _lanes(order)
    tops = _rows(order)
    columns = _columns(order, x, tops)
    nodes: list = [None] * len(order.paths)
    left, height, lefts = PADDING, 0.0, {}
    for column in columns:
        lefts.update(dict.fromkeys(column, left))
        low, high = min(x[n] for n in column), max(x[n] for n in column)
        first = min(tops[n] - HEADER * len(order.groups(n)) - PARTING for n in column)
        for n in column:
            nodes[n] = (left + x[n] - low + LANE / 2, tops[n] - first + GAP)
        left += high - low + LANE + COLUMN_GAP
        height = max(height, max(nodes[n][1] for n in column) + NODE_HEIGHT)
    boxes = _boxes(order, nodes)
    width = left - COLUMN_GAP + PADDING
    lines = [_line(order, nodes, edge, lefts) for edge in graph.edges]
    return Layout(nodes, boxes, lines, width, height + 3 * PADDING + GAP, order.prefix)


class _Order:
    """Properties of the graph that the layout needs."""

    def __init__(self, graph: Graph):
        self.paths, self.prefix = [node.path for node in graph.nodes], 0
        # A block around everything but the input is not drawn.
        while len({p[0] for p in self.paths[1:]}) == 1 and all(len(p) > 1 for p in self.paths[1:]):
            self.paths = [self.paths[0], *(p[1:] for p in self.paths[1:])]
            self.prefix += 1
        count = range(len(self.paths))
        self.parents = [[a for a, b in graph.edges if b == n] for n in count]
        self.children = [[b for a, b in graph.edges if a == n] for n in count]
        self.rank: list[int] = []
        self.dominator: list[int | None] = []
        for n in count:
            self.rank.append(1 + max((self.rank[p] for p in self.parents[n]), default=-1))
            self.dominator.append(self._common_ancestor(self.parents[n]))

    def _common_ancestor(self, parents):
        """Returns the last node on every path from the input to all `parents`, None without parents."""
        ancestors = list(parents)
        while len(set(ancestors)) > 1:
            latest = max(ancestors)
            ancestors = [self.dominator[a] if a == latest else a for a in ancestors]
            if None in ancestors:
                return None
        return ancestors[0] if ancestors else None

    def groups(self, node: int) -> list[tuple[str, ...]]:
        """Returns the paths of the blocks that contain a node, outermost first."""
        return [self.paths[node][:depth] for depth in range(1, len(self.paths[node]))]

    def opened(self, node: int) -> int:
        """Returns the number of blocks that begin at a node."""
        before = {g for p in self.parents[node] for g in self.groups(p)}
        return len([g for g in self.groups(node) if g not in before])

    def closed(self, node: int) -> int:
        """Returns the number of blocks that end after a node."""
        after = {g for c in self.children[node] for g in self.groups(c)}
        return len([g for g in self.groups(node) if g not in after])

    def parts_in(self, node: int) -> tuple[str, ...] | None:
        """Returns the block that begins where a node and its siblings branch off, None without one."""
        for parent in self.parents[node]:
            siblings = self.children[parent]
            shared = set.intersection(*(set(self.groups(n)) for n in siblings)) - set(self.groups(parent))
            if len(siblings) > 1 and shared:
                return max(shared, key=len)
        return None

    def offset(self, parent: int, child: int) -> float:
        """Returns the distance from a node to the branch of one of its children, to the right."""
        branches = self.children[parent]
        return (branches.index(child) - (len(branches) - 1) / 2) * LANE


def _lanes(order):
    """Returns x of every node: that of its parent, next to it in a branch, under the branching where branches join."""
    x = []
    for n, parents in enumerate(order.parents):
        if len(parents) == 1:
            x.append(x[parents[0]] + order.offset(parents[0], n))
        else:
            x.append(0.0 if order.dominator[n] is None else x[order.dominator[n]])
    for rank in range(max(order.rank) + 1):
        row = sorted((n for n in range(len(x)) if order.rank[n] == rank), key=lambda n: (x[n], n))
        for left, right in zip(row, row[1:], strict=False):
            x[right] = max(x[right], x[left] + LANE)
    return x


def _rows(order):
    """Returns the y of the upper edge of every node, all in one long column."""
    last = max(order.rank)
    ranks = [[n for n, r in enumerate(order.rank) if r == rank] for rank in range(last + 1)]
    tops, y = [0.0] * len(order.paths), 0.0
    for rank, nodes in enumerate(ranks):
        if rank:
            bends = (ELBOW * any(len(order.parents[n]) > 1 for n in nodes)
                     + PARTING * any(len(order.children[p]) > 1 for n in nodes for p in order.parents[n]))
            y += (NODE_HEIGHT + GAP + bends + PADDING * max(order.closed(n) for n in ranks[rank - 1])
                  + HEADER * max(order.opened(n) for n in nodes))
        for n in nodes:
            tops[n] = y
    return tops


def _columns(order, x, tops):
    """Returns lists of nodes, one a column, divided between outermost blocks so that the page is well filled."""
    spans = {}
    for n, path in enumerate(order.paths):
        low, high, members = spans.get(path[0], (order.rank[n], order.rank[n], []))
        spans[path[0]] = min(low, order.rank[n]), max(high, order.rank[n]), [*members, n]
    sections = []
    for low, high, members in sorted(spans.values()):
        if sections and low <= sections[-1][0]:  # Next to the one before: both stay in one column.
            sections[-1] = max(high, sections[-1][0]), sections[-1][1] + members
        else:
            sections.append((high, members))
    sections = [members for _, members in sections]
    span = max(x) - min(x) + LANE + COLUMN_GAP
    total = max(tops) + NODE_HEIGHT
    wanted = max(1, round((PAGE_RATIO * total / span) ** 0.5))
    return min((_fold(sections, tops, limit=total / wanted * slack) for slack in (1, 1.05, 1.1, 1.2, 1.3)),
               key=lambda columns: (len(columns) > wanted, max(_height(c, tops) for c in columns)))


def _fold(sections, tops, limit):
    columns = [list(sections[0])]
    for section in sections[1:]:
        if _height(columns[-1] + section, tops) > limit:
            columns.append([])
        columns[-1] += section
    return columns


def _height(nodes, tops):
    return max(tops[n] for n in nodes) - min(tops[n] for n in nodes) + NODE_HEIGHT


def _boxes(order, nodes):
    """Returns the frame of every block, around its nodes and the frames in it."""
    boxes = {}
    groups = {g for n in range(len(nodes)) for g in order.groups(n)}
    for group in sorted(groups, key=len, reverse=True):
        frames = [(x - NODE_WIDTH / 2, y, x + NODE_WIDTH / 2, y + NODE_HEIGHT)
                  for (x, y), path in zip(nodes, order.paths, strict=True) if path[:-1] == group]
        frames += [box for inner, box in boxes.items() if inner[:-1] == group]
        left, top, right, bottom = zip(*frames, strict=True)
        header = HEADER + PARTING * any(order.parts_in(n) == group for n in range(len(nodes)))
        boxes[group] = min(left) - PADDING, min(top) - header, max(right) + PADDING, max(bottom) + PADDING
    return dict(sorted(boxes.items(), key=lambda item: len(item[0])))


def _line(order, nodes, edge, lefts):
    """Returns the corners of one edge: it leaves and enters vertically in the lane of its branch.

    Args:
      order: the _Order of the graph.
      nodes: places of the nodes.
      edge: (parent, child).
      lefts: {node: left edge of its column}.
    """
    parent, child = edge
    (x1, y1), (x2, y2) = nodes[parent], nodes[child]
    y1 += NODE_HEIGHT
    siblings = order.children[parent]
    offset = order.offset(parent, child)
    corners = [(x1, y1)]
    if lefts[parent] != lefts[child]:  # Down, and up again between the columns.
        x1 = x2 - offset if len(order.parents[child]) == 1 else x2
        between, low, y1 = lefts[child] - COLUMN_GAP / 2, y1 + GAP, GAP / 3
        corners += [(corners[0][0], low), (between, low), (between, y1), (x1, y1)]
    lane = x2 if len(order.parents[child]) == 1 else x1 + offset
    part = y1
    if len(siblings) > 1:  # Branches begin under the title of their common block.
        shared = set.intersection(*(set(order.groups(n)) for n in siblings))
        part = min(nodes[n][1] - HEADER * len(set(order.groups(n)) - shared) for n in siblings) - ELBOW
    corners += [(x1, part), (lane, part), (lane, y2 - ELBOW), (x2, y2 - ELBOW), (x2, y2)]
    return [c for i, c in enumerate(corners) if i == 0 or c != corners[i - 1]]
