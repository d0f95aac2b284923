def markdown(results: dict) -> str:
    return ""
