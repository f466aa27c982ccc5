def held_by_code(analysis, excluded):
    return {}
