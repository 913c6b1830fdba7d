"""What a segmented target means: measured findings, scores of regions, answers and a report whose sentences name their evidence."""
