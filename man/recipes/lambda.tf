# A queue, and a function that stores what comes in a bucket. To deploy:
#
#   pip install --no-deps --target build ../..     # the function needs boto3 alone, which Lambda has
#   terraform init && terraform apply

terraform {
  required_providers {
    archive = { source = "hashicorp/archive", version = ">= 2.4" }
    aws     = { source = "hashicorp/aws", version = ">= 5.40" }
  }
}

variable "name" {
  description = "The name of the queue and the function, and the beginning of the bucket's"
  type        = string
  default     = "sqstee"
}

variable "prefix" {
  description = "Where the objects are stored in the bucket"
  type        = string
  default     = "logs"
}

variable "concurrency" {
  description = "The most batches that are stored at a time, 2 to 1000"
  type        = number
  default     = 10
}

resource "aws_s3_bucket" "logs" {
  bucket_prefix = "${var.name}-"
}

resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters"
  message_retention_seconds = 1209600 # 14 days, the most
}

resource "aws_sqs_queue" "lines" {
  name                       = var.name
  message_retention_seconds  = 1209600
  visibility_timeout_seconds = 780 # six times the function's timeout, and the batching window
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = 5
  })
}

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = 30
}

resource "aws_iam_role" "function" {
  name_prefix = "${var.name}-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "function" {
  role = aws_iam_role.function.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = "s3:PutObject"
        Resource = "${aws_s3_bucket.logs.arn}/${var.prefix}/*"
      },
      {
        Effect   = "Allow"
        Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
        Resource = aws_sqs_queue.lines.arn
      },
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.function.arn}:*"
      },
    ]
  })
}

data "archive_file" "function" {
  type        = "zip"
  source_dir  = "${path.module}/build"
  output_path = "${path.module}/build.zip"
}

resource "aws_lambda_function" "function" {
  function_name    = var.name
  role             = aws_iam_role.function.arn
  filename         = data.archive_file.function.output_path
  source_code_hash = data.archive_file.function.output_base64sha256
  handler          = "sqstee.aws_lambda.handler"
  runtime          = "python3.13"
  architectures    = ["arm64"]
  memory_size      = 1024 # a batch of 6 MB may be ten times as large when it is unpacked
  timeout          = 120
  depends_on       = [aws_cloudwatch_log_group.function, aws_iam_role_policy.function]

  environment {
    variables = {
      SQSTEE_LAMBDA_TO = "s3://${aws_s3_bucket.logs.bucket}/${var.prefix}"
    }
  }
}

resource "aws_lambda_event_source_mapping" "lines" {
  event_source_arn                   = aws_sqs_queue.lines.arn
  function_name                      = aws_lambda_function.function.arn
  batch_size                         = 10000 # 6 MB end a batch earlier, or the window
  maximum_batching_window_in_seconds = 60    # fewer, larger objects
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.concurrency
  }
}

output "queue_url" {
  description = "For nodes: sqstee --to"
  value       = aws_sqs_queue.lines.url
}

output "source" {
  description = "For readers: sqstee runs"
  value       = "s3://${aws_s3_bucket.logs.bucket}/${var.prefix}"
}
