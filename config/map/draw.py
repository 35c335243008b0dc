#!/usr/bin/env python3
"""Draws districts.geojson: a scheme of the districts of Hà Nội and TP. Hồ Chí Minh.

Each district is the area nearer to its middle point than to any other's (a Voronoi cell), within a circle around it.
The middle points are estimates by eye, to a hundredth of a degree; no boundary data went in, and none may be read out.

    python3 config/map/draw.py > config/map/districts.geojson
"""

import json
import math

# Code (General Statistics Office), name, degrees east and north of the middle, radius of the circle in km.
HANOI = [
    ("001", "Ba Đình", 105.826, 21.035, 9), ("002", "Hoàn Kiếm", 105.853, 21.029, 9),
    ("003", "Tây Hồ", 105.823, 21.069, 9), ("004", "Long Biên", 105.893, 21.043, 9),
    ("005", "Cầu Giấy", 105.793, 21.034, 9), ("006", "Đống Đa", 105.828, 21.013, 9),
    ("007", "Hai Bà Trưng", 105.857, 21.006, 9), ("008", "Hoàng Mai", 105.859, 20.974, 9),
    ("009", "Thanh Xuân", 105.809, 20.994, 9), ("016", "Sóc Sơn", 105.845, 21.262, 13),
    ("017", "Đông Anh", 105.845, 21.145, 11), ("018", "Gia Lâm", 105.955, 21.020, 9),
    ("019", "Nam Từ Liêm", 105.765, 21.013, 9), ("020", "Thanh Trì", 105.845, 20.925, 9),
    ("021", "Bắc Từ Liêm", 105.762, 21.071, 9), ("250", "Mê Linh", 105.720, 21.185, 10),
    ("268", "Hà Đông", 105.765, 20.958, 9), ("269", "Sơn Tây", 105.470, 21.110, 9),
    ("271", "Ba Vì", 105.385, 21.145, 14), ("272", "Phúc Thọ", 105.565, 21.105, 9),
    ("273", "Đan Phượng", 105.670, 21.100, 9), ("274", "Hoài Đức", 105.700, 21.025, 9),
    ("275", "Quốc Oai", 105.615, 20.975, 10), ("276", "Thạch Thất", 105.545, 21.030, 11),
    ("277", "Chương Mỹ", 105.665, 20.885, 12), ("278", "Thanh Oai", 105.775, 20.865, 9),
    ("279", "Thường Tín", 105.860, 20.850, 9), ("280", "Phú Xuyên", 105.905, 20.735, 11),
    ("281", "Ứng Hòa", 105.805, 20.730, 10), ("282", "Mỹ Đức", 105.715, 20.695, 12),
]
HO_CHI_MINH = [
    ("760", "Quận 1", 106.699, 10.776, 9), ("761", "Quận 12", 106.655, 10.867, 9),
    ("764", "Gò Vấp", 106.669, 10.838, 9), ("765", "Bình Thạnh", 106.711, 10.809, 9),
    ("766", "Tân Bình", 106.652, 10.802, 9), ("767", "Tân Phú", 106.626, 10.789, 9),
    ("768", "Phú Nhuận", 106.679, 10.799, 9), ("769", "Thủ Đức", 106.772, 10.838, 11),
    ("770", "Quận 3", 106.682, 10.783, 9), ("771", "Quận 10", 106.667, 10.772, 9),
    ("772", "Quận 11", 106.648, 10.764, 9), ("773", "Quận 4", 106.704, 10.759, 9),
    ("774", "Quận 5", 106.665, 10.755, 9), ("775", "Quận 6", 106.635, 10.747, 9),
    ("776", "Quận 8", 106.647, 10.727, 9), ("777", "Bình Tân", 106.600, 10.760, 9),
    ("778", "Quận 7", 106.727, 10.735, 9), ("783", "Củ Chi", 106.515, 10.995, 16),
    ("784", "Hóc Môn", 106.590, 10.885, 9), ("785", "Bình Chánh", 106.565, 10.690, 12),
    ("786", "Nhà Bè", 106.735, 10.655, 9), ("787", "Cần Giờ", 106.885, 10.490, 19),
]
CORNERS = 32


def outline(district, others, km_a_degree):
    """The district's ring, counterclockwise, in degrees."""
    _, _, lon, lat, radius = district
    # A plane in km around the middle.
    angles = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
    ring = [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
    for other in others:
        if other is district:
            continue
        east, north = (other[2] - lon) * km_a_degree[0], (other[3] - lat) * km_a_degree[1]
        half = (east * east + north * north) / 2
        ring = clipped(ring, lambda point: half - point[0] * east - point[1] * north)
    ring.append(ring[0])
    return [[round(lon + x / km_a_degree[0], 4), round(lat + y / km_a_degree[1], 4)] for x, y in ring]


def clipped(ring, inside):
    """The part of a convex ring in which `inside`, which is linear, isn't negative."""
    kept = []
    for point, after in zip(ring, ring[1:] + ring[:1]):
        here, there = inside(point), inside(after)
        if here >= 0:
            kept.append(point)
        if here * there < 0:
            share = here / (here - there)
            kept.append(tuple(a + (b - a) * share for a, b in zip(point, after)))
    return kept


def features(province, districts):
    middle = sum(lat for _, _, _, lat, _ in districts) / len(districts)
    km_a_degree = (111.32 * math.cos(math.radians(middle)), 110.57)
    for district in districts:
        ring = outline(district, districts, km_a_degree)
        yield {
            "type": "Feature",
            "properties": {"district": district[0], "province": province, "name": district[1]},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        }


lines = [json.dumps(feature, ensure_ascii=False) for feature in [*features("01", HANOI), *features("79", HO_CHI_MINH)]]
print('{"type": "FeatureCollection", "features": [\n' + ",\n".join(lines) + "\n]}")
