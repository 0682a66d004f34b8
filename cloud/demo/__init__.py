"""All of Secondlook on one machine: six real processes, their live status, and a report of what they did."""
