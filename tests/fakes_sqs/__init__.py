"""The fake SQS against boto3: each rule at its limit and one above, each fault, and the counters."""
