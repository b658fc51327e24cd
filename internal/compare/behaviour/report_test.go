package behaviour

import (
	"context"
	"fmt"
	"os"
	"strings"
)

func writeReport(path string) error {
	var s strings.Builder
	for _, part := range []struct {
		libs   []*library
		topics []topic
	}{{libraries, topics}, {grpcLibraries, grpcTopics}} {
		m, err := runMatrix(context.Background(), part.libs, rows(part.topics))
		if err != nil {
			return err
		}
		for _, sc := range rows(part.topics) {
			for _, l := range part.libs {
				v := m[sc.id][l.name]
				fmt.Fprintf(&s, "%s\t%s\t%s\t%s\n", sc.id, l.name, v.Mark, v.Reason)
			}
		}
	}
	return os.WriteFile(path, []byte(s.String()), 0o644)
}
