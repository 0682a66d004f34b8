"""All of Secondlook on one machine: five real processes, their live status, and a report of what they did."""
